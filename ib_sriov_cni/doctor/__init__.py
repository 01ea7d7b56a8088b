"""What must be right on a node: readers with a deadline collect facts, pure checks judge them (docs/doctor.md).

May import attach and everything below it, but not node: what it asks may hang, so it reads by itself. Changes nothing.
"""
