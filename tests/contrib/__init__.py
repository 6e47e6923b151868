"""What contrib offers to other programs, held against these."""
