"""Links that a person should judge, and the verdicts that come back."""
