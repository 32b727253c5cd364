"""AgileX Piper over CAN by piper-sdk, with a watchdog process of its own."""
