"""torchdiffeq's Runge-Kutta methods that are not the stack's, by which the drop-in takes its steps."""

from pylocalreg.engines.torch_engine.tableaus import Tableau

MIDPOINT = Tableau(
    name="torchdiffeq.midpoint",
    source="C. Runge, Ueber die numerische Aufloesung von Differentialgleichungen, Mathematische Annalen 46 "
    "(1895)",
    order=2,
    c=(1 / 2,),
    a=((1 / 2,),),
    btilde=(),
    interpolant=(),
    solution=(0.0, 1.0),
)
HEUN2 = Tableau(
    name="torchdiffeq.heun2",
    source="K. Heun, Neue Methoden zur approximativen Integration der Differentialgleichungen einer "
    "unabhaengigen Veraenderlichen, Zeitschrift fuer Mathematik und Physik 45 (1900)",
    order=2,
    c=(1.0,),
    a=((1.0,),),
    btilde=(),
    interpolant=(),
    solution=(1 / 2, 1 / 2),
)
HEUN3 = Tableau(
    name="torchdiffeq.heun3",
    source=HEUN2.source,
    order=3,
    c=(1 / 3, 2 / 3),
    a=((1 / 3,), (0.0, 2 / 3)),
    btilde=(),
    interpolant=(),
    solution=(1 / 4, 0.0, 3 / 4),
)
THREE_EIGHTHS = Tableau(
    name="torchdiffeq.rk4",
    source="W. Kutta, Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen, Zeitschrift "
    "fuer Mathematik und Physik 46 (1901): the 3/8 rule",
    order=4,
    c=(1 / 3, 2 / 3, 1.0),
    a=((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    btilde=(),
    interpolant=(),
    solution=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
)
ADAPTIVE_HEUN = Tableau(
    name="torchdiffeq.adaptive_heun",
    source=f"{HEUN2.source}; its error is the difference from Euler's step",
    order=2,
    c=(1.0,),
    a=((1.0,),),
    btilde=(-1 / 2, 1 / 2),
    interpolant=(),
    solution=(1 / 2, 1 / 2),
)
FEHLBERG2 = Tableau(
    name="torchdiffeq.fehlberg2",
    source="E. Fehlberg, Low-order classical Runge-Kutta formulas with stepsize control and their "
    "application to some heat transfer problems, NASA TR R-315 (1969): RK1(2)",
    order=2,
    c=(1 / 2, 1.0),
    a=((1 / 2,), (1 / 256, 255 / 256)),
    btilde=(-1 / 512, 0.0, 1 / 512),
    interpolant=(),
    solution=(1 / 512, 255 / 256, 1 / 512),
)

TABLEAUS = {
    "midpoint": MIDPOINT,
    "heun2": HEUN2,
    "heun3": HEUN3,
    "rk4": THREE_EIGHTHS,
    "adaptive_heun": ADAPTIVE_HEUN,
    "fehlberg2": FEHLBERG2,
}
