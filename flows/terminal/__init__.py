"""What the user sees of a command: tables and JSON on standard output, progress on standard error."""
