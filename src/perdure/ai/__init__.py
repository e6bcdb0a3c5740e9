"""What agents need beside steps: sessions."""
