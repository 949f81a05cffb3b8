"""A service without `main`: ready once loaded, it lives until it is stopped.

solo deploy examples/calc.py --id calc
solo call calc add 2 3
"""

from solo_trio import service


@service.export
async def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


@service.export
def mean(*numbers: float) -> float:
    """The mean; a plain function runs in a thread."""
    return sum(numbers) / len(numbers)
