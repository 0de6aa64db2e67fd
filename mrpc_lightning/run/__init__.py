"""One training run: its folder, what is written into it while it trains, and how it is stopped and resumed.

`run.py` is the folder; `settings.py` and `resume.py` say what a run is set to and what a resumed one may change;
`checkpoint.py`, `last_checkpoint.py` and `state.py` write and restore checkpoints; `recorder.py`, `throughput.py` and
`finite.py` watch; `scoring.py` scores pairs; `signals.py` and `processes.py` deal with what comes from outside.
"""
