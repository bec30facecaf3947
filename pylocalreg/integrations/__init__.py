"""Drop-ins for other solvers' calls, one module a library, none of which needs that library; and helpers for
training loops. Import the one you need: ``from pylocalreg.integrations.torchdiffeq import odeint``.
"""
