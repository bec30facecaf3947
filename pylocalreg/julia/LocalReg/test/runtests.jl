using LocalReg
using Test

@testset "LocalReg loads" begin
    @test LocalReg isa Module
end
