"""What each command of `devops-sim` does, one module a command; options and inputs that they share."""
