"""A component that does not exist, for tests of how components are added."""
