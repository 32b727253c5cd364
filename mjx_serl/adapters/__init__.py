"""Tasks as other libraries' environments."""
