"""What both sides speak; imports neither of them."""
