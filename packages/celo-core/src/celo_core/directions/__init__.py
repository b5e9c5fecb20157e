"""Directions: the kinds of step that a learned optimizer adds up."""
