"""Many runs, one table: settings crossed with seeds.

`study` is one study from its settings to its tables; `plan` and `search` say what is to be run, and `work` runs it.
`results` reads what came out, `out_of_fold` what folds tell, and `models` makes one model of several. `predictions`
reads tables of runs, `statistics` says what differences are worth, and `tables` writes it all down. Without a study,
`runs` lists the runs that there are, and `compare` compares some of them.
"""
