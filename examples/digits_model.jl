using Lux

build(features, hidden) = Chain(Dense(features => hidden, tanh), Dense(hidden => features))
