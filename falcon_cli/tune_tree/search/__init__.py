"""Ranks and costs in, trees and copy policies out, with their predicted speeds. Pure functions."""
