"""
The Julia half of pylocalreg, in outline: the engine's rooms are named here and empty until the Julia
engine fills them. Nothing in Python loads this module yet; `engine="julia"` is refused by name.

  - dynamics: Lux models from the Python layer descriptions, one flat parameter vector
  - steps: explicit one-step estimates (Tsit5, SRI)
  - regularizers: unbiased and biased local regularization, the paper's variant
  - solve: any solver of the stack by name
  - pull_back: the adjoints through `adjoint_sensitivities`, the replayed discrete one
  - bridge: arrays by DLPack, errors as pylocalreg's
"""
module LocalReg

end
