"""Tests; a package, so that modules of one name do not meet."""
