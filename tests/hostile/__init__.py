"""Whoever may not, and whatever is malformed: nobody gets in, and nothing breaks."""
