# The problems of standard_problems.py in Julia, where a step costs microseconds: f!(du, u, p, t) each.

function lorenz!(du, u, p, t)
    x, y, z = u
    sigma, rho, beta = p
    du .= (sigma * (y - x), x * (rho - z) - y, x * y - beta * z)
    return nothing
end

# seven stars in a plane: places, then velocities, of each x and y; p are their masses
function pleiades!(du, u, p, t)
    du[1:14] .= view(u, 15:28)
    for i in 1:7
        ax = ay = zero(eltype(du))
        for j in 1:7
            i == j && continue
            dx, dy = u[j] - u[i], u[7 + j] - u[7 + i]
            cubed = (dx^2 + dy^2)^1.5
            ax += p[j] * dx / cubed
            ay += p[j] * dy / cubed
        end
        du[14 + i], du[21 + i] = ax, ay
    end
    return nothing
end

# on a line, 1 and 3 at its ends: a, b and the diffusion
function brusselator!(du, u, p, t)
    n = length(u) ÷ 2
    a, b, alpha = p
    for i in 1:n
        x, y = u[i], u[n + i]
        left_x, right_x = i == 1 ? 1 : u[i - 1], i == n ? 1 : u[i + 1]
        left_y, right_y = i == 1 ? 3 : u[n + i - 1], i == n ? 3 : u[n + i + 1]
        du[i] = a + x^2 * y - (b + 1) * x + alpha * (n + 1)^2 * (left_x - 2x + right_x)
        du[n + i] = b * x - x^2 * y + alpha * (n + 1)^2 * (left_y - 2y + right_y)
    end
    return nothing
end

function van_der_pol!(du, u, p, t)
    y, dy = u
    du .= (dy, p[1] * (1 - y^2) * dy - p[2] * y)
    return nothing
end

function robertson!(du, u, p, t)
    slow, fast, quick = p[1] * u[1], p[2] * u[2] * u[3], p[3] * u[2]^2
    du .= (fast - slow, slow - fast - quick, quick)
    return nothing
end

function orego!(du, u, p, t)
    a, b, c = u
    s, q, w = p
    du .= (s * (b + a * (1 - q * a - b)), (c - (1 + a) * b) / s, w * (a - c))
    return nothing
end

function hires!(du, u, p, t)
    a, b, c, d, e, f, g, h = u
    k, l, m = p
    du .= (
        -k * a + 0.43b + 8.32c + 0.0007, k * a - 8.75b, -10.03c + 0.43d + 0.035e, 8.32b + k * c - 1.12d,
        -1.745e + 0.43f + 0.43g, -l * f * h + 0.69d + k * e - 0.43f + 0.69g, l * f * h - m * g, -l * f * h + m * g,
    )
    return nothing
end

const REACTANTS = (
    (1,), (2, 4), (5, 2), (7,), (7,), (7, 6), (9,), (9, 6), (11, 2), (11, 1), (13,), (10, 2), (14,), (1, 6), (3,), (4,),
    (4,), (16,), (16,), (17, 6), (19,), (19,), (1, 4), (19, 1), (20,),
)

# p are the logarithms of the rates
function pollution!(du, u, p, t)
    r = similar(du, 25)
    for (i, who) in enumerate(REACTANTS)
        r[i] = exp(p[i]) * prod(j -> u[j], who)
    end
    du .= (
        -r[1] - r[10] - r[14] - r[23] - r[24] + r[2] + r[3] + r[9] + r[11] + r[12] + r[22] + r[25],
        -r[2] - r[3] - r[9] - r[12] + r[1] + r[21], -r[15] + r[1] + r[17] + r[19] + r[22],
        -r[2] - r[16] - r[17] - r[23] + r[15], -r[3] + 2r[4] + r[6] + r[7] + r[13] + r[20],
        -r[6] - r[8] - r[14] - r[20] + r[3] + 2r[18], -r[4] - r[5] - r[6] + r[13], r[4] + r[5] + r[6] + r[7],
        -r[7] - r[8], -r[12] + r[7] + r[9], -r[9] - r[10] + r[8] + r[11], r[9], -r[11] + r[10], -r[13] + r[12], r[14],
        -r[18] - r[19] + r[16], -r[20], r[20], -r[21] - r[22] - r[24] + r[23] + r[25], -r[25] + r[24],
    )
    return nothing
end
