"""Many runs of train.py from one file: `python -m mjx_serl.sweep SPEC`; docs/sweeps.md."""
