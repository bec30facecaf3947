using LocalReg: pull_directional

const TREE = (layer_1 = (weight = [1.0 2 3; 4 5 6], bias = [7.0, 8]), rate = 9.0, empty = (;), pair = ([10.0], 11.0))

@testset "a tree is one vector, in order" begin
    places, next = slots(error, TREE)
    @test next == 12
    p = flatten(TREE, places)
    @test p == [1, 4, 2, 5, 3, 6, 7:11...]
    @test unflatten(places, p) == TREE
    @test named_places(places) == [
        ("layer_1.weight", 1, [2, 3]), ("layer_1.bias", 7, [2]), ("rate", 9, []), ("pair.1", 10, [1]), ("pair.2", 11, []),
    ]
    f(p) = (tree = unflatten(places, p); sum(tree.layer_1.weight .^ 2) * tree.rate + tree.pair[2]^3)
    @test close_to(Zygote.gradient(f, p)[1], differences(f, p); rtol = 1e-7)
    @test_throws ErrorException slots(error, (flag = true,))
    @test slots(Constant, (count = 3, mean = [1.0]))[1] == (count = Constant(3), mean = Slot(1, (1,)))
end

function lux_model(layer; timed = false, training = true)
    ps, st = Lux.setup(Random.Xoshiro(0), layer)
    places, _ = slots(error, ps)
    running, _ = slots(Constant, st)
    buffer = Float64.(flatten(st, running))
    mine = with_running(seeded(training ? st : Lux.testmode(st), 5), unflatten(running, buffer), running)
    return LuxModel(layer, places, timed, mine, running, training, Ref(false)), Float64.(flatten(ps, places)), buffer
end

system!(du, u, p, t) = (du .= p.a .* u .* t .- p.b[1] .* u .^ 2 .+ p.b[2]; nothing)
system(u, p, t) = p.a .* u .* t .- p.b[1] .* u .^ 2 .+ p.b[2]

function function_model(f, in_place)
    p = (a = 0.7, b = [0.3, -0.4])
    places, _ = slots(error, p)
    return FunctionModel(f, in_place, places, Ref(false)), flatten(p, places)
end

@testset "$name" for (name, (model, p)) in [
        "dense" => lux_model(Lux.Chain(Lux.Dense(2 => 5, tanh), Lux.Dense(5 => 2)))[1:2],
        "timed" => lux_model(Lux.Chain(Lux.Dense(3 => 5, tanh), Lux.Dense(5 => 2)); timed = true)[1:2],
        "batch norm" => lux_model(Lux.Chain(Lux.Dense(2 => 3), Lux.BatchNorm(3, tanh), Lux.Dense(3 => 2)))[1:2],
        "dropout" => lux_model(Lux.Chain(Lux.Dense(2 => 9, tanh), Lux.Dropout(0.5), Lux.Dense(9 => 2)))[1:2],
        "out of place" => function_model(system, false), "in place" => function_model(system!, true),
    ]
    u, t, w = [0.3 -0.4 0.8; 0.1 0.5 -0.2], 0.6, [1.0 2 3; -1 0.5 2]
    value_at(u, p, t) = (du = similar(u); evaluate!(model, du, u, p, t); du)
    du, back = pull(model, u, p, t)
    @test close_to(du, value_at(u, p, t))
    by_u, by_p = back(w)
    @test close_to(by_u, differences(x -> sum(w .* value_at(reshape(x, 2, 3), p, t)), vec(u)); rtol = 1e-6)
    @test close_to(by_p, differences(x -> sum(w .* value_at(u, x, t)), p); rtol = 1e-6)
    J = jacobian(model, u, p, t)
    @test close_to(J' * vec(w), vec(by_u))
    dT = time_derivative(model, u, p, t)
    @test close_to([sum(w .* dT)], differences(x -> sum(w .* value_at(u, p, x[1])), [t]); rtol = 1e-6)
    # the gradients move along a direction as pull_directional says
    v, dt, h = [0.2 0.1 -0.3; 0.4 -0.5 0.6], 0.7, 1e-5
    ahead, behind = (pull(model, u .+ x .* v, p, t + x * dt)[2](w) for x in (h, -h))
    for (moved, far, near) in zip(pull_directional(model, u, p, t, v, dt, w), ahead, behind)
        @test close_to(moved, (far .- near) ./ 2h; rtol = 1e-6)
    end
end

@testset "what changes between calls is refused" begin
    u = [0.3 -0.4 0.8; 0.1 0.5 -0.2]
    refused(model, p) = @test_throws Refusal evaluate!(model, similar(u), u, p, 0.0)
    for f in (
            (u, p, t) -> u .+ rand(), (u, p, t) -> (u[1] += 0; u[1] = 1; copy(u)), (u, p, t) -> u[1:1, :],
            (u, p, t) -> Float32.(u), (u, p, t) -> 1.0,
        )
        refused(FunctionModel(f, false, nothing, Ref(false)), [0.0])
    end
    for f! in ((du, u, p, t) -> (du[1] = 1), (du, u, p, t) -> (du .+= u))
        refused(FunctionModel(f!, true, nothing, Ref(false)), [0.0])
    end
    model, p, _ = lux_model(Lux.VariationalHiddenDropout(0.5))
    refused(model, [0.0])
end

@testset "running statistics follow calls in place in training mode alone" begin
    layer = Lux.Chain(Lux.Dense(2 => 3), Lux.BatchNorm(3), Lux.Dense(3 => 2))
    u = [0.3 -0.4 0.8; 0.1 0.5 -0.2]
    for training in (true, false)
        model, p, buffer = lux_model(layer; training)
        before = copy(buffer)
        pull(model, u, p, 0.0)
        @test buffer == before
        evaluate!(model, similar(u), u, p, 0.0)
        @test (buffer != before) == training
    end
end

@testset "a description as a Lux model, timed = $timed" for timed in (false, true)
    layers = Tuple(lux_layer(row..., timed) for row in (("dense", 2, 3, 0, "tanh"), ("batchnorm", 3, 0.1, 0, "identity"), ("dense", 3, 2, 0, "identity")))
    running = (nothing, ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]), nothing)
    p = weights(Float64, sum(sum(prod, values(parameters(layer))) for layer in layers))
    u = [0.3 -0.4 0.8; 0.1 0.5 -0.2]
    model, ps, st = lux_of(layers, timed, running, p)
    y, _ = model(timed ? (u, 0.7) : u, ps, st)
    @test close_to(y, Layers(layers, timed, 0, running, false)(u, p, 0.7))
end
