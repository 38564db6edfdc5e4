"""Arguments, printing, exit codes: one file per command, without further logic."""
