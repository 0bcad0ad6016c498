"""What a cycle costs on this machine: measured, kept, and asked before a draft is made."""
