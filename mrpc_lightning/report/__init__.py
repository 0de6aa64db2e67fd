"""From probabilities to what a person reads: the final metrics, what they are worth, and the page that shows them.

`final` is what the commands call; `metrics` computes, `subsets` takes apart, `caveats` warns, `curves` diagnoses the
training, `plots` draws and `page` puts all of it on one page.
"""
