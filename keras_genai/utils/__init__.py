"""The ground floor: what every part uses and what uses none of them."""
