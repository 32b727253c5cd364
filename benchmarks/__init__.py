"""How fast it is, beside others: one module per question, each a command that prints it."""
