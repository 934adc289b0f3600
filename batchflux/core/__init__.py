"""Pure decisions over values: no asyncio, no files, no network; clock and dice come as arguments."""
