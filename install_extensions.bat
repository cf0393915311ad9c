@echo off
rem Builds the kernels of csrc\ for the current environment: an active one, else .venv, else python. PYTHON=path names another.
rem USE_CUDA=0/1 skips or demands the CUDA part; setup.py lists the other switches.
rem Paths in messages stand in quotes: the parenthesis of "Program Files (x86)" would end the block around them.
setlocal EnableExtensions
cd /d "%~dp0"
if errorlevel 1 exit /b 1

call :find_python
"%PYTHON%" --version >nul 2>&1
if errorlevel 1 (
  echo install_extensions: "%PYTHON%" was not found; install Python 3.10 or newer or set PYTHON 1>&2
  exit /b 1
)
"%PYTHON%" -c "import torch" >nul 2>&1
if errorlevel 1 (
  echo install_extensions: PyTorch is not installed for "%PYTHON%"; install it first, see docs\install.md 1>&2
  exit /b 1
)
"%PYTHON%" -c "import setuptools" >nul 2>&1
if errorlevel 1 (
  echo install_extensions: setuptools is not installed; run: "%PYTHON%" -m pip install "setuptools>=77" wheel ninja 1>&2
  exit /b 1
)

call :on_path cl.exe
if errorlevel 1 call :find_compiler
call :on_path cl.exe
if errorlevel 1 (
  echo install_extensions: cl.exe was not found; install the Visual Studio Build Tools with "Desktop development with C++" 1>&2
  exit /b 1
)
rem cl.exe is on PATH now; without this PyTorch would look for another Visual Studio.
set DISTUTILS_USE_SDK=1

"%PYTHON%" setup.py --quiet build_ext --inplace
if errorlevel 1 exit /b 1
"%PYTHON%" -m microdreamer.kernels.extension
exit /b %errorlevel%

:find_python
if defined PYTHON exit /b 0
set "PYTHON=python"
if defined VIRTUAL_ENV exit /b 0
if defined CONDA_PREFIX exit /b 0
if exist ".venv\Scripts\python.exe" set "PYTHON=.venv\Scripts\python.exe"
exit /b 0

:find_compiler
rem Run by its name: a quoted path at the start of a command within for /f loses its quotes where it has parentheses.
set "INSTALLER=%ProgramFiles(x86)%\Microsoft Visual Studio\Installer"
if not exist "%INSTALLER%\vswhere.exe" exit /b 1
set "PATH=%PATH%;%INSTALLER%"
for /f "usebackq delims=" %%d in (`vswhere.exe -latest -products * -requires Microsoft.VisualStudio.Component.VC.Tools.x86.x64 -property installationPath`) do (
  if exist "%%d\VC\Auxiliary\Build\vcvars64.bat" call "%%d\VC\Auxiliary\Build\vcvars64.bat" >nul
)
exit /b 0

:on_path
rem Exit code 0 if a folder of PATH holds the program. Not by where.exe, which a PATH without System32 lacks.
for %%p in (%1) do if "%%~$PATH:p"=="" exit /b 1
exit /b 0
