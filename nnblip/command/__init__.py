"""The command, what it prints, and the check of an installation."""
