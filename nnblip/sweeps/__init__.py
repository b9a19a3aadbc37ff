"""Whole data sets, stopped and resumed at will, by one process or many."""
