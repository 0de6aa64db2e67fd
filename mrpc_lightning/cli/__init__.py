"""From words to calls: the command line, on LightningCLI without its own subcommands.

`instant.py` answers before anything heavy is imported; `app.py` has `main`; `build.py` makes Trainer, model and data;
`commands.py` is what each subcommand does with them; `listing.py` has the two that need none, `runs` and `compare`.
`flags.py` says which flags there are; `parser.py` has help and errors; `merge.py` lets flags, config files and a run's
values meet.
"""
