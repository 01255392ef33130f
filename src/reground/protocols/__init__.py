"""What is asked, how it is answered, and what may be called in between: as data, without torch."""
