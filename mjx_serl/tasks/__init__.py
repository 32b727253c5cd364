"""One task a file; `envs.task.TASKS` finds them."""
