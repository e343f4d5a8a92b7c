"""What Fogbook is measured against; never part of the product."""
