"""What a call waits for: rates, permits, pauses and the circuit breaker."""
