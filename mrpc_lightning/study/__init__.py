"""Many runs, one table: settings crossed with seeds.

`study` is one study from its settings to its tables; `plan` says what is to be run, `work` runs it, `results` reads
what came out, and `statistics` says what differences are worth.
"""
