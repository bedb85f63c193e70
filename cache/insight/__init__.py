"""What a store holds, in numbers for people."""
