"""Machine code is read right: on listings small enough to count by hand."""

from cofm_triton.evidence.compilation.machine_code import _AMD, _NVIDIA, Loop, _amd_loops, _main_loop, _nvidia_loops

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, desc[UR6][R4.64] ;
.L_x_1:
        /*0020*/                   LDG.E.64 R8, desc[UR6][R2.64] ;
        /*0030*/                   IADD3 R2, P0, R2, UR4, RZ ;
        /*0040*/                   FFMA R5, R4, R5, R8 ;
        /*0050*/              @!P2 MUFU.EX2 R6, R5 ;
        /*0060*/                   F2FP.BF16.F32.PACK_AB R6, R5, R6 ;
        /*0070*/                   STG.E.U16 desc[UR6][R2.64], R6 ;
        /*0080*/               @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0090*/                   IADD3 R2, R2, 0x1, RZ ;
        /*00a0*/               @P1 BRA `(.L_x_2) ;
        /*00b0*/                   EXIT ;
.L_x_3:
        /*00c0*/                   BRA `(.L_x_3);
"""
AMD = """
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
.LBB0_1:                                ; =>This Loop Header: Depth=1
                                        ;     Child Loop BB0_2 Depth 2
\tglobal_load_dwordx4 v[0:3], v4, s[2:3]
.LBB0_2:                                ;   Parent Loop BB0_1 Depth=1
                                        ; =>  This Inner Loop Header: Depth=2
\tglobal_load_dwordx2 v[0:1], v4, s[2:3]
\ts_waitcnt vmcnt(0)
.Ltmp1:
\ts_cbranch_execz .LBB0_4
; %bb.3:                                ;   in Loop: Header=BB0_2 Depth=2
\tv_pk_fma_f32 v[0:1], v[2:3], v[0:1], v[6:7]
\ts_branch .LBB0_4
.LBB0_5:                                ;   in Loop: Header=BB0_1 Depth=1
\tv_pk_fma_f32 v[0:1], v[2:3], v[0:1], v[6:7]
\ts_cbranch_scc1 .LBB0_1
.LBB0_4:                                ;   in Loop: Header=BB0_2 Depth=2
\tv_exp_f32_e32 v0, v0
\tv_add_u32_e32 v4, v4, v5
\tds_read_b32 v9, v8
\tglobal_store_short v4, v0, s[2:3]
\ts_cbranch_scc1 .LBB0_2
; %bb.6:                                ;   in Loop: Header=BB0_1 Depth=1
\ts_cbranch_scc1 .LBB0_5
; %bb.7:
\ts_endpgm
"""


def test_nvidia_loop() -> None:
    assert _main_loop(_nvidia_loops(SASS), _NVIDIA) == Loop(
        {"float": 1, "special": 1, "convert": 1, "integer": 1, "global": 2, "control": 1}, {"load 8": 1, "store 2": 1}
    )


def test_amd_loop_is_the_innermost() -> None:
    assert _main_loop(_amd_loops(AMD), _AMD) == Loop(
        {"float": 1, "special": 1, "integer": 1, "global": 2, "shared": 1, "sync": 1, "control": 3},
        {"load 8": 1, "store 2": 1},
    )


def test_code_without_a_loop_has_none() -> None:
    straight = "\n".join(line for line in SASS.splitlines() if "BRA" not in line)
    assert _main_loop(_nvidia_loops(straight), _NVIDIA) is None
