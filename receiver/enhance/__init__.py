"""From a decoded frame to an enhanced one."""
