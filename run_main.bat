@echo off
rem Runs main.py with the arguments given, in the current environment: an active one, else .venv, else python.
rem   run_main.bat --config configs\micro.yaml input=photo_rgba.png save_path=name
rem   run_main.bat -profile --config ...      the same under NVIDIA Nsight Systems; writes a .nsys-rep file (docs/profiling.md)
rem NSYS_OPTIONS holds more options for nsys, such as --cuda-graph-trace=node.
setlocal EnableExtensions
set "HERE=%~dp0"

if not defined PYTHON call :find_python
"%PYTHON%" --version >nul 2>&1
if errorlevel 1 (
  echo run_main: "%PYTHON%" was not found; install Python 3.10 or newer, or set PYTHON to its path 1>&2
  exit /b 2
)
if not "%~1"=="-profile" goto run

call :on_path nsys.exe
if errorlevel 1 (
  echo run_main: nsys was not found; install NVIDIA Nsight Systems and put its target-windows-x64 folder on PATH 1>&2
  exit /b 2
)
rem Everything after -profile as it was typed. Numbered arguments would split input=photo.png at the equals sign; quotes around
rem the whole would leave an ampersand of a quoted prompt outside of quotes.
set ARGUMENTS=%*
set ARGUMENTS=%ARGUMENTS:*-profile=%
rem Windows has no osrt trace; wddm is its counterpart there, and needs an administrator, so it is left out.
rem Of two words for one key the later one counts, so profiling.mode=... among the arguments overrides ours.
nsys profile --trace=cuda,nvtx --output="profile_%RANDOM%" %NSYS_OPTIONS% "%PYTHON%" "%HERE%main.py" profiling.mode=nvtx %ARGUMENTS%
exit /b %errorlevel%

:run
"%PYTHON%" "%HERE%main.py" %*
exit /b %errorlevel%

:find_python
set "PYTHON=python"
if defined VIRTUAL_ENV exit /b 0
if defined CONDA_PREFIX exit /b 0
if exist "%HERE%.venv\Scripts\python.exe" set "PYTHON=%HERE%.venv\Scripts\python.exe"
exit /b 0

:on_path
rem Exit code 0 if a folder of PATH holds the program. Not by where.exe, which a PATH without System32 lacks.
for %%p in (%1) do if "%%~$PATH:p"=="" exit /b 1
exit /b 0
