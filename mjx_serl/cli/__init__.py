"""The commands: `mjx-serl train|evaluate|play|...`, and the scripts of a checkout."""
