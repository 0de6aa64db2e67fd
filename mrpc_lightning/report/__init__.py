"""From probabilities to what a person reads. The commands call `final`.

`metrics` computes, `subsets` takes apart, `caveats` warns, `curves` diagnoses, `plots` draws, `page` shows it all.
"""
