"""What every part of the package uses and no theory is in."""
