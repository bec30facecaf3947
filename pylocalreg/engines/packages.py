"""Which package of the stack has which algorithm: the exports of the packages, as of the middle of 2026.

Left out are the packages whose algorithms solve other problems than du/dt = f(t, u): split, second-order,
linear and partitioned ones.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """A Julia package by its UUID, and the names of its algorithms, between spaces."""

    uuid: str
    names: str


PACKAGES: dict[str, Package] = {
    "OrdinaryDiffEqTsit5": Package(
        "b1df2697-797e-41e3-8120-5422d3b24e4a",
        "Tsit5 AutoTsit5",
    ),
    "OrdinaryDiffEqLowOrderRK": Package(
        "1344f307-1e59-4825-a18e-ace9aa3fa4c6",
        "Euler Heun Ralston Midpoint RK4 BS3 OwrenZen3 OwrenZen4 OwrenZen5 BS5 DP5 Anas5 RKO65 "
        "FRK65 RKM MSRK5 MSRK6 PSRK4p7q6 PSRK3p5q4 PSRK3p6q5 Stepanov5 SIR54 Alshina2 Alshina3 "
        "Alshina6 AutoDP5 Ralston4",
    ),
    "OrdinaryDiffEqHighOrderRK": Package(
        "d28bc4f8-55e1-4f49-af69-84c1a99f0f58",
        "TanYam7 DP8 PFRK87 TsitPap8",
    ),
    "OrdinaryDiffEqVerner": Package(
        "79d7bb75-1356-48c1-b8c0-6832512096c2",
        "Vern6 Vern7 Vern8 Vern9 RKV76IIa AutoVern6 AutoVern7 AutoVern8 AutoVern9",
    ),
    "OrdinaryDiffEqFeagin": Package(
        "101fe9f7-ebb6-4678-b671-3a81e7194747",
        "Feagin10 Feagin12 Feagin14",
    ),
    "OrdinaryDiffEqQPRK": Package(
        "04162be5-8125-4266-98ed-640baecc6514",
        "QPRK98",
    ),
    "OrdinaryDiffEqSSPRK": Package(
        "669c94d9-1f4b-4b64-b377-1aa079aa2388",
        "SSPRK53_2N2 SSPRK22 SSPRK53 SSPRK63 SSPRK83 SSPRK43 SSPRK432 SSPRKMSVS32 SSPRK54 "
        "SSPRK53_2N1 SSPRK104 SSPRK932 SSPRKMSVS43 SSPRK73 SSPRK53_H SSPRK33 KYKSSPRK42 "
        "KYK2014DGSSPRK_3S2 pRRK22 pRRK33 pRRK54",
    ),
    "OrdinaryDiffEqLowStorageRK": Package(
        "b0944070-b475-4768-8dec-fb6eb410534d",
        "ORK256 CarpenterKennedy2N54 SHLDDRK64 DGLDDRK73_C DGLDDRK84_C DGLDDRK84_F NDBLSRK124 "
        "NDBLSRK134 NDBLSRK144 CFRLDDRK64 TSLDDRK74 CKLLSRK43_2 CKLLSRK54_3C CKLLSRK95_4S "
        "CKLLSRK95_4C CKLLSRK95_4M CKLLSRK54_3C_3R CKLLSRK54_3M_3R CKLLSRK54_3N_3R CKLLSRK85_4C_3R "
        "CKLLSRK85_4M_3R CKLLSRK85_4P_3R CKLLSRK54_3N_4R CKLLSRK54_3M_4R CKLLSRK65_4M_4R "
        "CKLLSRK85_4FM_4R CKLLSRK75_4M_5R ParsaniKetchesonDeconinck3S32 "
        "ParsaniKetchesonDeconinck3S82 ParsaniKetchesonDeconinck3S53 ParsaniKetchesonDeconinck3S173 "
        "ParsaniKetchesonDeconinck3S94 ParsaniKetchesonDeconinck3S184 "
        "ParsaniKetchesonDeconinck3S105 ParsaniKetchesonDeconinck3S205 RDPK3Sp35 RDPK3SpFSAL35 "
        "RDPK3Sp49 RDPK3SpFSAL49 RDPK3Sp510 RDPK3SpFSAL510 RK46NL SHLDDRK_2N SHLDDRK52",
    ),
    "OrdinaryDiffEqAdamsBashforthMoulton": Package(
        "89bda076-bce5-4f1c-845f-551c83cdda9a",
        "AB3 AB4 AB5 ABM32 ABM43 ABM54 VCAB3 VCAB4 VCAB5 VCABM3 VCABM4 VCABM5 VCABM",
    ),
    "OrdinaryDiffEqStabilizedRK": Package(
        "358294b1-0aab-51c3-aafe-ad5ab194a2ad",
        "ROCK2 ROCK4 RKC RKMC2 ESERK4 ESERK5 SERK2 TSRKC2 TSRKC3 RKL1 RKL2 RKG1 RKG2",
    ),
    "OrdinaryDiffEqExtrapolation": Package(
        "becaefa8-8ca2-5cf9-886d-c06f3d2bd2c4",
        "AitkenNeville ExtrapolationMidpointDeuflhard ExtrapolationMidpointHairerWanner "
        "ImplicitEulerExtrapolation ImplicitDeuflhardExtrapolation "
        "ImplicitHairerWannerExtrapolation ImplicitEulerBarycentricExtrapolation",
    ),
    "OrdinaryDiffEqRosenbrock": Package(
        "43230ef6-c299-4910-a778-202eb28ce4ce",
        "Rosenbrock23 Rosenbrock32 RosShamp4 Veldd4 Velds4 GRK4T GRK4A Ros4LStab ROS3P Rodas3 "
        "Rodas23W Rodas3P Rodas4 Rodas42 Rodas4P Rodas4P2 Rodas4PW Rodas5 Rodas5P Rodas5Pe Rodas5Pr "
        "Rodas6P HybridExplicitImplicitRK Tsit5DA RosenbrockW6S4OS ROS34PW1a ROS34PW1b ROS34PW2 "
        "ROS34PW3 ROS34PRw ROS3PRL ROS3PRL2 ROK4a ROS2 ROS2PR ROS2S ROS3 ROS3PR Scholz4_7",
    ),
    "OrdinaryDiffEqSDIRK": Package(
        "2d112036-d095-4a1e-ab9a-08536f3ecdbf",
        "ImplicitEuler ImplicitMidpoint Trapezoid TRBDF2 SDIRK2 SDIRK22 Kvaerno3 KenCarp3 Cash4 "
        "Hairer4 Hairer42 SSPSDIRK2 Kvaerno4 Kvaerno5 KenCarp4 KenCarp47 KenCarp5 KenCarp58 "
        "ESDIRK54I8L2SA SFSDIRK4 SFSDIRK5 CFNLIRK3 SFSDIRK6 SFSDIRK7 SFSDIRK8 ESDIRK325L2SA "
        "ESDIRK436L2SA2 ESDIRK437L2SA ESDIRK547L2SA2 ESDIRK659L2SA ARS343 ARS222 ARS232 ARS443 "
        "IMEXSSP222 IMEXSSP2322 IMEXSSP3332 IMEXSSP3433 BHR553",
    ),
    "OrdinaryDiffEqFIRK": Package(
        "5960d6e9-dd7a-4743-88e7-cf307b64f125",
        "RadauIIA3 RadauIIA5 RadauIIA9 AdaptiveRadau GaussLegendre",
    ),
    "OrdinaryDiffEqPDIRK": Package(
        "5dd0a6cf-3d4b-4314-aa06-06d4e299bc89",
        "PDIRK44",
    ),
    "OrdinaryDiffEqBDF": Package(
        "6ad6398a-0878-4a85-9266-38940aa047c8",
        "ABDF2 QNDF1 QBDF1 QNDF2 QBDF2 QNDF QBDF FBDF SBDF SBDF2 SBDF3 SBDF4 MEBDF2 IMEXEuler IMEXEulerARK",
    ),
    "OrdinaryDiffEqTaylorSeries": Package(
        "9c7f1690-dd92-42a3-8318-297ee24d8d39",
        "ExplicitTaylor2 ExplicitTaylor ExplicitTaylorAdaptiveOrder",
    ),
    "OrdinaryDiffEqSIMDRK": Package(
        "dc97f408-7a72-40e4-9b0d-228a53b292f8",
        "MER5v2 MER6v2 RK6v4",
    ),
    "OrdinaryDiffEqDefault": Package(
        "50262376-6c5a-4cf5-baba-aaf4f84d72d7",
        "DefaultODEAlgorithm DefaultImplicitODEAlgorithm",
    ),
    "StochasticDiffEqLowOrder": Package(
        "d15fe365-ce7f-450a-828a-7985bd5b681b",
        "EM EulerHeun LambaEM LambaEulerHeun SimplifiedEM RKMil RKMilCommute PCEuler",
    ),
    "StochasticDiffEqHighOrder": Package(
        "0520c28c-50fd-4d16-9c96-902fc80b3bab",
        "SRI SRIW1 SRIW2 SOSRI SOSRI2 SRA SRA1 SRA2 SRA3 SOSRA SOSRA2",
    ),
    "StochasticDiffEqMilstein": Package(
        "8c95a807-c8e7-4581-8419-890d001af53e",
        "RKMilGeneral WangLi3SMil_A WangLi3SMil_B WangLi3SMil_C WangLi3SMil_D WangLi3SMil_E WangLi3SMil_F",
    ),
    "StochasticDiffEqImplicit": Package(
        "5080b986-4c76-4669-b5dc-373a41579d5b",
        "ImplicitEM ImplicitEulerHeun ImplicitRKMil STrapezoid SImplicitMidpoint ISSEM ISSEulerHeun SKenCarp",
    ),
    "StochasticDiffEqWeak": Package(
        "af2a2fcd-1c36-4cbe-a6d0-5afda784a085",
        "DRI1 DRI1NM RI1 RI3 RI5 RI6 RDI1WM RDI2WM RDI3WM RDI4WM W2Ito1 RS1 RS2 PL1WM PL1WMA NON "
        "NON2 COM SIEA SIEB SMEA SMEB IRI1",
    ),
    "StochasticDiffEqROCK": Package(
        "db241ea8-0e6b-4abc-8f2d-1adff2294fd9",
        "SROCK1 SROCK2 KomBurSROCK2 SROCKC2 SROCKEM SKSROCK TangXiaoSROCK2",
    ),
    "StochasticDiffEq": Package("789caeaf-c7a9-5a7d-9973-96adeb23e2a0", "AutoSOSRI2 AutoSOSRA2"),
    "OrdinaryDiffEqCore": Package("bbf590c4-e513-4bbe-9b18-05decba2e5d8", "AutoAlgSwitch"),
    "OrdinaryDiffEqNonlinearSolve": Package(
        "127b3ac7-2247-4354-8eb6-78cf4e7c58e8",
        "NLNewton NLAnderson NLFunctional NonlinearSolveAlg",
    ),
    "SciMLSensitivity": Package(
        "1ed8b502-d754-442c-8d5d-10ac956f44a1",
        "BacksolveAdjoint ForwardDiffSensitivity GaussAdjoint GaussKronrodAdjoint InterpolatingAdjoint "
        "QuadratureAdjoint ReverseDiffVJP ZygoteVJP",
    ),
    "LinearSolve": Package(
        "7ed4a6bd-45f5-4d41-b270-4a48e9bafcae",
        "LUFactorization GenericLUFactorization QRFactorization KLUFactorization UMFPACKFactorization "
        "RFLUFactorization KrylovJL_GMRES",
    ),
}

OWNERS: dict[str, str] = {
    name: package for package, entry in PACKAGES.items() for name in entry.names.split()
}
"""The package of each name."""

ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("CVODE_BDF", "CVODE_Adams", "ARKODE"), "Sundials"),
    **dict.fromkeys(("dopri5", "dop853", "odex", "seulex", "radau", "radau5", "rodas"), "ODEInterfaceDiffEq"),
    **dict.fromkeys(("ddeabm", "ddebdf"), "ODEInterfaceDiffEq"),
    **dict.fromkeys(("IRKGL16", "IRKGL162"), "IRKGaussLegendre"),
    "lsoda": "LSODA",
}
"""Names of packages that bring integrators of their own, whose steps pylocalreg does not read."""

WRONG: dict[str, str] = {
    "AN5": "errs by 0.5 on Lorenz' problem at a tolerance of 1e-8",
    **dict.fromkeys(("JVODE", "JVODE_Adams", "JVODE_BDF"), "overflows Julia's stack"),
}
"""What is wrong with algorithms of the stack itself, in OrdinaryDiffEqNordsieck 2.2.0."""
