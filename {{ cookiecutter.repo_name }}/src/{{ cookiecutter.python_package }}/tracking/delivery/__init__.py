"""Points arrive, whatever happens: batching, the circuit breaker, the outbox, its sync."""
