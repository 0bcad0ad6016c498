"""The rivals: drafters that are not Falcon's."""
