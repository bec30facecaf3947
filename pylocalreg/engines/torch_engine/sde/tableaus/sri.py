"""Rößler's methods of strong order 1.5, and the ones with the largest stability regions among them.

Their error estimate is E1 + E2: the drift's stages summed, and the part of the step that the integrals of
order 1.5 weigh (Rackauckas and Nie 2017, Adaptive methods for stochastic differential equations via natural
embeddings and rejection sampling with memory). The order is reached where an element's diffusion depends on
that element alone, or the noise is scalar or additive.
"""

from pylocalreg.engines.torch_engine.sde.tableau import Integral, Row, Stage, StochasticTableau

_SOURCE = (
    "C. Rackauckas, Q. Nie, Stability-optimized high order methods and stiffness detection for pathwise "
    "stiff stochastic differential equations (2020)"
)

_SRIW1_ERROR: dict[Integral, Row] = {
    "WZ": (2.0, -4 / 3, -2 / 3, 0.0),
    "WWW": (-2.0, 5 / 3, -2 / 3, 1.0),
}

SRIW1 = StochasticTableau(
    name="SRIW1",
    source="A. Rößler, Runge-Kutta methods for the strong approximation of solutions of stochastic "
    "differential equations, SIAM Journal on Numerical Analysis 48 (2010)",
    order=1.5,
    interpretation="Ito",
    drift=(Stage(0.0), Stage(0.75, (0.75,), (1.5,), "WZ")),
    diffusion=(
        Stage(0.0),
        Stage(0.25, (0.25,), (0.5,)),
        Stage(1.0, (1.0,), (-1.0,)),
        Stage(0.25, (0.25,), (-5.0, 3.0, 0.5)),
    ),
    alpha=(1 / 3, 2 / 3),
    beta={
        "W": (-1.0, 4 / 3, 2 / 3, 0.0),
        "WW": (-1.0, 4 / 3, -1 / 3, 0.0),
        **_SRIW1_ERROR,
    },
    error_drift=(1.0, 1.0),
    error_diffusion=_SRIW1_ERROR,
    delta=1 / 6,
)

_SOSRI_ERROR: dict[Integral, Row] = {
    "WZ": (2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945),
    "WWW": (0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704),
}

SOSRI = StochasticTableau(
    name="SOSRI",
    source=_SOURCE,
    order=1.5,
    interpretation="Ito",
    drift=(
        Stage(0.0),
        Stage(
            -0.04199224421316468,
            (-0.04199224421316468,),
            (-0.21641093549612528,),
            "WZ",
        ),
        Stage(
            0.7898405466170333,
            (2.842612915017106, -2.0527723684000727),
            (1.5336352863679572, 0.26066223492647056),
            "WZ",
        ),
        Stage(
            3.7504010171562823,
            (4.338237071435815, -2.8895936137439793, 2.3017575594644466),
            (-1.0536037558179159, 1.7015284721089472, -0.20725685784180017),
            "WZ",
        ),
    ),
    diffusion=(
        Stage(0.0),
        Stage(
            0.26204282091330466,
            (0.26204282091330466,),
            (-0.5119011827621657,),
        ),
        Stage(
            0.05879875232001766,
            (0.20903646383505375, -0.1502377115150361),
            (2.67767339866713, -4.9395031322250995),
        ),
        Stage(
            0.758661169101175,
            (0.05836595312746999, 0.6149440396332373, 0.08535117634046772),
            (0.15580956238299215, 3.2361551006624674, -1.4223118283355949),
        ),
    ),
    alpha=(1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714),
    beta={
        "W": (-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956),
        "WW": (0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336),
        **_SOSRI_ERROR,
    },
    error_drift=(1.0, 1.0, 1.0, 1.0),
    error_diffusion=_SOSRI_ERROR,
)

_SOSRI2_ERROR: dict[Integral, Row] = {
    "WZ": (1.4531568972730915, -0.8330937231303933, -0.3792843195533583, -0.24077885458934023),
    "WWW": (-0.4976090683622265, 0.9148155835648892, -1.4102107084476505, 0.9930041932449877),
}

SOSRI2 = StochasticTableau(
    name="SOSRI2",
    source=_SOURCE,
    order=1.5,
    interpretation="Ito",
    drift=(
        Stage(0.0),
        Stage(
            0.13804532298278663,
            (0.13804532298278663,),
            (0.08852381537667678,),
            "WZ",
        ),
        Stage(
            0.9999999999999992,
            (0.5818361298250374, 0.4181638701749618),
            (1.0317752458971061, 0.4563552922077882),
            "WZ",
        ),
        Stage(
            0.9999999999999994,
            (0.4670018408674211, 0.8046204792187386, -0.27162232008616016),
            (1.73078280444124, -0.46089678470929774, -0.9637509618944188),
            "WZ",
        ),
    ),
    diffusion=(
        Stage(0.0),
        Stage(
            0.45605532163856893,
            (0.45605532163856893,),
            (0.6753186815412179,),
        ),
        Stage(
            0.999999999999996,
            (0.7555807846451692, 0.24441921535482677),
            (-0.07452812525785148, -0.49783736486149366),
        ),
        Stage(
            0.9999999999999962,
            (0.6981181143266059, 0.3453277086024727, -0.04344582292908241),
            (-0.5591906709928903, 0.022696571806569924, -0.8984927888368557),
        ),
    ),
    alpha=(-0.15036858140642623, 0.7545275856696072, 0.686995463807979, -0.2911544680711602),
    beta={
        "W": (-0.45315689727309133, 0.8330937231303951, 0.3792843195533544, 0.24077885458934192),
        "WW": (-0.4994383733810986, 0.9181786186154077, -0.25613778661003145, -0.16260245862427797),
        **_SOSRI2_ERROR,
    },
    error_drift=(1.0, 1.0, 1.0, 1.0),
    error_diffusion=_SOSRI2_ERROR,
    stiffness=True,
)
