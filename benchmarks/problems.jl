# The problems of problems.py as Julia functions f!(du, u, p, t).

function lotka_volterra!(du, u, p, t)
    hares, lynx = u
    du[1] = 1.5hares - hares * lynx
    du[2] = hares * lynx - 3lynx
end

function orbit!(du, u, p, t)
    x, y, dx, dy = u
    cubed = (x^2 + y^2)^1.5
    du[1], du[2], du[3], du[4] = dx, dy, -x / cubed, -y / cubed
end

function arenstorf!(du, u, p, t)
    x, y, dx, dy = u
    small = 0.012277471
    large = 1 - small
    earth = ((x + small)^2 + y^2)^1.5
    moon = ((x - large)^2 + y^2)^1.5
    du[1], du[2] = dx, dy
    du[3] = x + 2dy - large * (x + small) / earth - small * (x - large) / moon
    du[4] = y - 2dx - large * y / earth - small * y / moon
end

function pleiades!(du, u, p, t)
    for i in 1:7
        du[i], du[7 + i] = u[14 + i], u[21 + i]
        pull_x = pull_y = zero(eltype(u))
        for j in 1:7
            i == j && continue
            across, up = u[j] - u[i], u[7 + j] - u[7 + i]
            pull = j / (across^2 + up^2)^1.5
            pull_x += across * pull
            pull_y += up * pull
        end
        du[14 + i], du[21 + i] = pull_x, pull_y
    end
end

function brusselator!(du, u, p, t)
    for i in 1:16
        x, y = u[i], u[16 + i]
        left_x, right_x = i == 1 ? 1.0 : u[i - 1], i == 16 ? 1.0 : u[i + 1]
        left_y, right_y = i == 1 ? 3.0 : u[15 + i], i == 16 ? 3.0 : u[17 + i]
        reaction = x^2 * y
        du[i] = 1 + reaction - 4x + 0.02 * 17^2 * (left_x - 2x + right_x)
        du[16 + i] = 3x - reaction + 0.02 * 17^2 * (left_y - 2y + right_y)
    end
end

function hires!(du, u, p, t)
    a, b, c, d, e, f, g, h = u
    du[1] = -1.71a + 0.43b + 8.32c + 0.0007
    du[2] = 1.71a - 8.75b
    du[3] = -10.03c + 0.43d + 0.035e
    du[4] = 8.32b + 1.71c - 1.12d
    du[5] = -1.745e + 0.43f + 0.43g
    du[6] = -280f * h + 0.69d + 1.71e - 0.43f + 0.69g
    du[7] = 280f * h - 1.81g
    du[8] = -280f * h + 1.81g
end

function robertson!(du, u, p, t)
    slow, fast, quick = 0.04u[1], 1.0e4 * u[2] * u[3], 3.0e7 * u[2]^2
    du[1], du[2], du[3] = fast - slow, slow - fast - quick, quick
end
