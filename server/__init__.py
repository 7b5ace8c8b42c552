"""What the hospital runs."""
