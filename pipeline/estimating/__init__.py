"""What a run would take: parameters, operations, memory, time."""
