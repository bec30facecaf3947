# A predator and its prey, of a batch of starts: u is 2 x n, or a vector of 2.

function lotka_volterra!(du, u, p, t)
    for j in axes(u, 2)
        prey, predator = u[1, j], u[2, j]
        du[1, j] = p.birth * prey - p.hunt * prey * predator
        du[2, j] = -p.death * predator + p.gain * prey * predator
    end
    return nothing
end

function lotka_volterra(u, p, t)
    prey, predator = u[1:1, :], u[2:2, :]
    du = vcat(
        p.birth .* prey .- p.hunt .* prey .* predator,
        -p.death .* predator .+ p.gain .* prey .* predator,
    )
    return reshape(du, size(u))
end
