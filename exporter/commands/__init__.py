"""Arguments, printing, exit codes: one file a command. No logic."""
